"""Text from outside without secrets and of bounded length, in linear time: for people (:func:`mask`) and for log lines.

What is masked: user, password, query and fragment of URLs (:mod:`worker.masking.urls`), and values whose name says that
they are secret (:mod:`worker.masking.named`). Each function looks at a character a fixed number of times: log lines are
made on the event loop, and the text in them is chosen by others.
"""

from worker.masking.lines import LONGEST_VALUE, cut, mask, safe_field, safe_text, safe_value, without_secrets

__all__ = ["LONGEST_VALUE", "cut", "mask", "safe_field", "safe_text", "safe_value", "without_secrets"]
