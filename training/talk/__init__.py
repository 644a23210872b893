"""The texts of the training set: questions about scenes with true answers, and small talk without a picture.

ask makes one question about a scene, small_talk one without a scene, conversation several turns. truth.py judges replies.
"""

from training.talk.conversation import KINDS_OF_QUESTION, ask, conversation
from training.talk.exchange import Exchange
from training.talk.without_picture import small_talk

__all__ = ["KINDS_OF_QUESTION", "Exchange", "ask", "conversation", "small_talk"]
