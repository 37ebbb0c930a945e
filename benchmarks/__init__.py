"""How fast and how small paramsurvey is, beside what else there is; `run` measures and prints all of it."""
