"""Maps on the models that vLLM runs, by its plugins."""
