"""NTU RGB+D 60 and 120: the dataset, its skeleton files, and the cameras fitted to its joints."""
