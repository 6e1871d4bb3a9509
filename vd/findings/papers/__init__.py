"""Papers, one file each: their title, the roles that a study's runs play, and their findings."""
