"""The players: General MIDI programs with their range, place in the picture and reverb send."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Instrument:
    """One General MIDI sound.

    `low` and `high` bound the comfortable range (MIDI pitch), `pan` and `reverb` are MIDI
    controller values (0 to 127), `strum_s` spreads the notes of a chord, in seconds each, and
    `swells` asks for slow dynamics.
    """

    name: str
    program: int
    low: int
    high: int
    pan: int = 64
    reverb: int = 40
    strum_s: float = 0.0
    swells: bool = False
    is_drums: bool = False


_LIST = (
    Instrument("piano", 0, 33, 96, 60, 40),
    Instrument("electric piano", 4, 36, 88, 54, 45),
    Instrument("digital piano", 5, 36, 88, 56, 50),
    Instrument("harpsichord", 6, 36, 84, 56, 45),
    Instrument("clavinet", 7, 40, 84, 44, 20),
    Instrument("celesta", 8, 60, 96, 74, 60),
    Instrument("glockenspiel", 9, 72, 103, 80, 60),
    Instrument("music box", 10, 60, 96, 66, 60),
    Instrument("vibraphone", 11, 53, 89, 74, 50),
    Instrument("marimba", 12, 45, 91, 48, 45),
    Instrument("xylophone", 13, 65, 96, 80, 45),
    Instrument("organ", 16, 36, 88, 56, 45),
    Instrument("rock organ", 18, 36, 88, 52, 45),
    Instrument("church organ", 19, 36, 84, 64, 70),
    Instrument("accordion", 21, 53, 88, 58, 35),
    Instrument("harmonica", 22, 60, 89, 68, 40),
    Instrument("bandoneon", 23, 48, 86, 58, 40),
    Instrument("nylon guitar", 24, 40, 81, 48, 40, 0.009),
    Instrument("acoustic guitar", 25, 40, 81, 46, 35, 0.011),
    Instrument("jazz guitar", 26, 40, 84, 46, 35, 0.006),
    Instrument("electric guitar", 27, 40, 84, 44, 35, 0.006),
    Instrument("muted guitar", 28, 40, 79, 40, 20),
    Instrument("overdriven guitar", 29, 40, 84, 66, 35, 0.004),
    Instrument("distorted guitar", 30, 36, 79, 46, 25, 0.003),
    Instrument("upright bass", 32, 28, 60, 64, 18),
    Instrument("bass guitar", 33, 28, 60, 64, 10),
    Instrument("picked bass", 34, 28, 60, 64, 10),
    Instrument("fretless bass", 35, 28, 60, 64, 16),
    Instrument("slap bass", 36, 28, 62, 64, 8),
    Instrument("synth bass", 38, 26, 60, 64, 5),
    Instrument("deep synth bass", 39, 24, 60, 64, 5),
    Instrument("violin", 40, 55, 96, 52, 55),
    Instrument("viola", 41, 48, 84, 72, 55),
    Instrument("cello", 42, 36, 76, 76, 55),
    Instrument("double bass", 43, 28, 60, 72, 45),
    Instrument("pizzicato strings", 45, 36, 91, 54, 60),
    Instrument("harp", 46, 36, 96, 46, 60),
    Instrument("strings", 48, 36, 91, 64, 60, swells=True),
    Instrument("slow strings", 49, 36, 91, 64, 65, swells=True),
    Instrument("synth strings", 50, 36, 91, 64, 55, swells=True),
    Instrument("choir", 52, 43, 84, 64, 70, swells=True),
    Instrument("voice", 53, 48, 84, 64, 65),
    Instrument("trumpet", 56, 54, 84, 70, 45),
    Instrument("trombone", 57, 40, 74, 80, 45),
    Instrument("tuba", 58, 28, 58, 60, 40),
    Instrument("muted trumpet", 59, 54, 82, 72, 50),
    Instrument("french horn", 60, 41, 77, 50, 60),
    Instrument("brass section", 61, 43, 84, 76, 40),
    Instrument("soprano sax", 64, 56, 86, 70, 45),
    Instrument("alto sax", 65, 51, 82, 70, 45),
    Instrument("tenor sax", 66, 45, 77, 70, 45),
    Instrument("oboe", 68, 58, 90, 60, 55),
    Instrument("clarinet", 71, 52, 89, 70, 50),
    Instrument("flute", 73, 60, 95, 68, 55),
    Instrument("recorder", 74, 60, 93, 70, 50),
    Instrument("pan flute", 75, 60, 93, 62, 60),
    Instrument("tin whistle", 78, 67, 98, 70, 50),
    Instrument("square lead", 80, 48, 100, 60, 15),
    Instrument("saw lead", 81, 40, 96, 64, 30),
    Instrument("calliope lead", 82, 48, 96, 68, 45),
    Instrument("bright pad", 88, 40, 91, 64, 70, swells=True),
    Instrument("warm pad", 89, 36, 91, 64, 70, swells=True),
    Instrument("polysynth", 90, 40, 91, 58, 45),
    Instrument("choir pad", 91, 40, 91, 64, 70, swells=True),
    Instrument("halo pad", 94, 40, 91, 64, 70, swells=True),
    Instrument("crystal bells", 98, 55, 96, 70, 70),
    Instrument("sitar", 104, 48, 84, 60, 45),
    Instrument("kalimba", 108, 53, 91, 58, 50),
    Instrument("fiddle", 110, 55, 93, 56, 45),
    Instrument("steel drums", 114, 55, 88, 60, 45),
    Instrument("drums", 0, 0, 127, 64, 18, is_drums=True),
    Instrument("room drums", 8, 0, 127, 64, 28, is_drums=True),
    Instrument("power drums", 16, 0, 127, 64, 25, is_drums=True),
    Instrument("electronic drums", 24, 0, 127, 64, 18, is_drums=True),
    Instrument("drum machine", 25, 0, 127, 64, 14, is_drums=True),
    Instrument("jazz drums", 32, 0, 127, 64, 25, is_drums=True),
    Instrument("brushed drums", 40, 0, 127, 64, 25, is_drums=True),
    Instrument("orchestral percussion", 48, 0, 127, 64, 50, is_drums=True),
)

INSTRUMENTS = {instrument.name: instrument for instrument in _LIST}
