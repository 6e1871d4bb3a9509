"""What a study will cost before it is run: steps, tokens, hours, memory, disk, dollars."""
