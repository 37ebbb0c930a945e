"""Those who watch a survey: the terminal, the log file."""
