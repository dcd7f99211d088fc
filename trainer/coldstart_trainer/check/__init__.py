"""Checks of the data sets of a run before it is started; nothing is trained, torch is not needed.

`python -m coldstart_trainer.check` looks at everything; `gate` looks for equal rows alone.
"""
