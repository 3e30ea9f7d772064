"""melodac: autoregressive music models over the tokens of a neural audio codec, as a pure library.

Two codecs: the bundled spectral codec, and the Descript Audio Codec (DAC). No DVC, no Prefect, no
params.yaml, no printing here; `pipeline/` does all of that.

Axis letters, one meaning each in the whole project:

    B batch                     D model width
    C audio channels            H attention heads (queries)
    K codebooks                 G attention heads (keys and values)
    N audio samples             E head width
    T codec frames              F feed-forward width
    S steps after the pattern   L layers
    W frames read (T + delay)   M memory (key) length
    P prefix frames             V vocabulary of one codebook, specials included
    Y bytes of a text           U usable codes a head can emit (V without specials)
    Z numbers of a code's vector

Import direction, top may import below and never up:

    doctor | evaluation | overfit | report
    sampling | training | codec_training
    models
    tokens | codec
    audio
    config | files
    errors
"""
