"""Public data sets, one file each: where it is, on which terms, how its rows become ours."""
