"""From floating point to few bits: equalize, calibrate, insert fake quantization, repair, convert."""
