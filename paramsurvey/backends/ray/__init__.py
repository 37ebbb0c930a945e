"""The ray backend: tasks on a Ray cluster, or on a quiet Ray of our own on this machine."""
