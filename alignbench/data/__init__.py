"""The data of a comparison: sources give rows, which are filtered, split and tokenised once for all."""
