"""The commands of `actrec calibrate`."""
