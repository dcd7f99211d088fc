"""The distill stage: a teacher answers questions; right answers become rows."""

from coldstart_trainer.distill.stage import run

__all__ = ["run"]
