"""`python -m coldstart` is the `coldstart` command."""

from coldstart.cli import main

main(prog_name="coldstart")
