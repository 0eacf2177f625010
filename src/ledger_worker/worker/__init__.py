"""The loops of a worker and the process that runs them; what is applied, and by which rules, is decided below."""
