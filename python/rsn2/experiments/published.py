"""F1 per class that the paper printed (Tables 11 to 13), by experiment and task; ``CONTROL`` are its dense networks.

At the end, test losses after the last stage (the last bars of Figures 3 to 5, from the logs that the authors published)
and sizes of files (Experiment 8).
"""

from __future__ import annotations

DIGITS_FC_CONTROL = (.98, .99, .97, .97, .98, .97, .98, .97, .96, .96)  # fmt: skip
DIGITS_CONV_CONTROL = (.99, .99, .98, .99, .99, .99, .99, .99, .99, .98)  # fmt: skip
FASHION_FC_CONTROL = (.84, .98, .79, .88, .79, .97, .69, .95, .97, .96)  # fmt: skip
FASHION_CONV_CONTROL = (.85, .99, .87, .92, .86, .98, .76, .97, .99, .97)  # fmt: skip
CIFAR_CONTROL = (.55, .59, .35, .26, .38, .39, .51, .53, .55, .52)  # fmt: skip

EXP1 = (
    (.86, .98, .85, .90, .84, .98, .72, .96, .97, .97),
    (.85, .97, .84, .89, .83, .98, .72, .96, .98, .96),
    (.84, .98, .82, .88, .83, .98, .72, .96, .97, .97),
    (.85, .98, .84, .90, .84, .98, .72, .96, .98, .97),
    (.87, .99, .88, .91, .88, .98, .78, .96, .98, .97),
)  # fmt: skip
EXP1_ENSEMBLE = (.87, .98, .87, .91, .86, .98, .76, .97, .98, .97)  # fmt: skip
EXP2_EASY = (1.00, .97, .96, .99, .96)  # fmt: skip
EXP2_HARD = (.85, .87, .92, .85, .73)  # fmt: skip
EXP3_DIGITS = (.99, .99, .98, .97, .97, .97, .98, .98, .97, .96)  # fmt: skip
EXP3_FASHION = (.82, .97, .77, .87, .79, .96, .62, .94, .97, .95)  # fmt: skip
EXP4_DIGITS = (.99, .99, .99, .99, .99, .99, .99, .99, .98, .98)  # fmt: skip
EXP4_FASHION = (.85, .98, .85, .90, .85, .98, .71, .96, .97, .96)  # fmt: skip
EXP5_DIGITS = (.98, .99, .97, .97, .97, .97, .97, .98, .97, .96)  # fmt: skip
EXP5_FASHION = (.82, .98, .78, .88, .78, .95, .68, .94, .96, .95)  # fmt: skip
EXP6_DIGITS = (.98, .99, .98, .98, .98, .98, .98, .98, .98, .97)  # fmt: skip
EXP6_FASHION = (.84, .98, .83, .89, .83, .97, .70, .95, .97, .96)  # fmt: skip
EXP6_CIFAR = (.65, .72, .46, .43, .49, .49, .69, .70, .70, .69)  # fmt: skip
EXP7_DIGITS = (.98, .99, .98, .96, .97, .96, .97, .96, .96, .96)  # fmt: skip
EXP7_FASHION = (.82, .97, .78, .87, .78, .95, .64, .93, .95, .95)  # fmt: skip
EXP7_IMDB = (.83, .81)  # fmt: skip
IMDB_CONTROL = (.80, .80)  # fmt: skip
AGE_CONTROL = (.00, .00, .49, .00, .00, .00, .00, .00, .00, .00)  # fmt: skip
GENDER_CONTROL = (.00, .64)  # fmt: skip
RACE_CONTROL = (.00, .00, .25, .00, .00)  # fmt: skip
EXP8_CIFAR_CONTROL = (.00, .00, .00, .00, .00, .18, .00, .00, .00, .00)  # fmt: skip
EXP8_AGE = (.89, .45, .68, .37, .14, .44, .34, .29, .45, .08)  # fmt: skip
EXP8_GENDER = (.90, .88)  # fmt: skip
EXP8_RACE = (.84, .83, .79, .68, .27)  # fmt: skip
EXP8_CIFAR = (.58, .63, .27, .35, .44, .47, .53, .54, .61, .52)  # fmt: skip

FINAL_LOSSES = {
    "exp5": {"digits": .1513, "fashion": .3584, "boston": .01602},
    "exp6": {"cifar": 1.1203, "digits": .0609, "fashion": .3079},
    "exp7": {"digits": .0956, "fashion": .3841, "boston": .01103},
}  # fmt: skip
LOSS_FIGURES = {"exp5": "Figure 3", "exp6": "Figure 4", "exp7": "Figure 5"}
FILE_MEGABYTES = {"exp8": (130.0, 203.0)}
"""One network for all tasks, and the networks for one task each, at 256x256 pixels."""
