"""From rows to tokens: chat template, token ids, loss mask, packing, lengths."""
