"""What every training script shares: resumable data order, sealed checkpoints, logs, the CLI.

Lightning's Trainer runs the loops. What is added here makes a run repeatable to the bit, also when
it was killed in between: all randomness is a function of the seed and of where in the run it is
drawn, the data order is a function of the epoch, and whatever else the run has learned is in its
checkpoints, which are written whole or not at all.
"""
