"""What goes next, what is finished, what is lost: the quiet middle of every survey."""
