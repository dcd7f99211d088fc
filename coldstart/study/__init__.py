"""Studies: one run.yaml and a matrix become runs that share their stages, and one table.

Nothing is trained and no cluster is asked here: runs are carried out as `coldstart run` does, or by
a place that has them.
"""
