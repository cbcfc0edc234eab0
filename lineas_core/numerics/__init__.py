"""Transport, proximal operators and a solver; nothing here knows of models."""
