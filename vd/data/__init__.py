"""What models, probes and judges read: data sets by name."""
