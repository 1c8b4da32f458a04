"""The version of this package, in a file of its own: artefacts record it without importing the
façade.
"""

__version__ = "0.1.0"
