"""The stages of a run, carried out: one process per accelerator, started by torchrun."""
