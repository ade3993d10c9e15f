"""Rules about layers and the units in them: normalisation, recurrent gates, dead units, inputs (NET, NRM, RNN, INP)."""
