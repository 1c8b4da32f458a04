"""``python -m sidar``."""

from sidar.cli import main

main()
