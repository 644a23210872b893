"""The language half of the training set: questions about scenes with true, varied answers, small talk, and honesty.

ask: one question about a picture. small_talk: one without. conversation: several turns. truth.py judges replies.
"""

from training.talk.conversation import KINDS_OF_QUESTION, ask, conversation
from training.talk.exchange import Exchange
from training.talk.without_picture import small_talk

__all__ = ["KINDS_OF_QUESTION", "Exchange", "ask", "conversation", "small_talk"]
