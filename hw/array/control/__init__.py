"""Front end, tokens and sequencer of the `array` engine. Ref: docs/array.md sections 3 to 5."""
