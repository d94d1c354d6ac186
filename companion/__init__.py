"""A perceptual image codec you can read.

One idea carries the package: *a bitstream names a cell*, the set of all pictures that the encoder
maps to it.  Every module makes a cell (`codecs`), describes a prior (`priors`), samples the prior
inside the cell (`inversion`), or measures what came out (`metrics`).
"""

__version__ = "0.1.0"
