"""Small models trained here on texts of ours: what reads values, and whether content is kept."""
