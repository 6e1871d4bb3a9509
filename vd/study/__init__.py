"""What is asked: a study's file, its keys, its mistakes, the runs that it expands to."""
