"""Running checks, one after another, and who hears of it."""
