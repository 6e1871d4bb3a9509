"""Small models that are trained here on texts of ours: what reads values, and whether content is kept."""
