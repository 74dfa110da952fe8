"""The runner of comparisons, their specifications, and the paper's tables.

A comparison trains contenders with several seeds. Each training is a resumable piece
(:mod:`.runs`), either a run of Lightning's loop or a short trial (:mod:`.trial`); its page is
written from the pieces that are finished (:mod:`.pages`).
"""
