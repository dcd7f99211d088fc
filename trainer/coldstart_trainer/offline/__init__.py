"""vLLM in processes of its own: the offline engine of evaluations, the server of a teacher."""
