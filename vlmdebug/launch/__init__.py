"""`vlmdebug run`: a program that starts unchanged, in each of its processes with watched models."""
