"""`python -m flows.cli`: the same as `anodiff`."""

from flows.cli import main

main()
