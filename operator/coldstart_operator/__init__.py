"""The Kubernetes operator: takes every ReasoningRun of a cluster through its stages."""
