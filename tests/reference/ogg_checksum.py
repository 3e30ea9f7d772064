"""Ogg's checksum bit by bit, as RFC 3533 section 6 describes it."""


def ogg_checksum_slowly(page):
    register = 0
    for byte in page:
        register ^= byte << 24
        for _ in range(8):
            is_set = register & 0x8000_0000
            register = (register << 1 ^ (0x04C1_1DB7 if is_set else 0)) & 0xFFFF_FFFF
    return register
