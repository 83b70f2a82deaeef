"""What the checks of this paper measure: exact scales, single steps, and branched runs."""
