"""All ways to ask about a picture, by kind of question. Knows the words of the closed world, not a scene."""

from __future__ import annotations

import random

from training.kinds import BY_NAME, CATEGORIES, COLOURS, KINDS, REGIONS
from training.talk.exchange import Pool, careless

_IMAGES = ("image", "image", "image", "picture", "picture", "picture", "photo", "drawing")
_COLOURS = ("color", "color", "colour")

# {image} image, picture ..; {color} color or colour; {a} a dog; {the} the dog; {many} dogs; {the2} the cat; {tint} red;
# {side} left of; {place} at the top; {category} an animal; {categories} animals; {be} is or are; {pic} the noun again.
QUESTIONS: dict[str, Pool] = {
    "what": Pool(
        """What is in this image?
What is in the {image}?
What's in this {image}?
What do you see?
What can you see in the {image}?
What do you see in this {image}?
What does this {image} show?
What does the {image} show?
What is shown in the {image}?
What is shown here?
Tell me what you see.
Tell me what is in the {image}.
What objects are in the {image}?
What things are in this {image}?
Which objects can you see?
Name everything in the {image}.
Name all the things in this {image}.
List the objects in the {image}.
List everything you see.
Identify the objects in this {image}.
Can you tell me what is in this {image}?
Could you tell me what you see here?
What is there in the {image}?
What have we got here?
What is visible in this {image}?
What's here?
Do you know what is in this {image}?
Which things does the {image} contain?
What is depicted in this {image}?
What am I looking at?
What is on the {image}?
I want to know what is in this {image}.
Look at the {image} and tell me what is there.
Can you see what is in the {image}?
What did I draw in this {image}?
Analyze this {image}.
What is it that you see here?
Say what is in the {image}.
What is this {image} of?
What is this a {image} of?""",
        keep=6,
    ),
    "describe": Pool(
        """Describe this image.
Describe the {image}.
Describe this {image} in detail.
Describe what you see.
Please describe the {image}.
Can you describe this {image}?
Could you please describe what is in this {image}?
Give me a description of this {image}.
Give a short description of the {image}.
Caption this {image}.
Write a caption for this {image}.
What is happening in this {image}?
Explain what is happening in the {image}.
Explain this {image}.
Tell me about this {image}.
Tell me everything about the {image}.
Describe the scene.
Describe the scene in this {image}.
What does the scene look like?
What does this {image} look like?
Describe it.
Describe this.
Describe everything you can see in the {image}.
Describe the {image} in one sentence.
Describe the {image} in a few words.
Write a short description.
I cannot see the {image}, describe it for me.
Imagine I am blind: describe this {image}.
Summarize this {image}.
How would you describe this {image}?
Provide a detailed description of the {image}.
Give me all the details of this {image}.
Write one sentence about this {image}.
Write alt text for this {image}.""",
        keep=4,
    ),
    "count": Pool(
        """How many {many} are there?
How many {many} are in the {image}?
How many {many} do you see?
How many {many} can you see in this {image}?
How many {many} are in this {image}?
How many {many} does the {image} show?
How many {many} can you count?
How many {many} have I drawn?
How many {many}?
Count the {many}.
Count the {many} in the {image}.
Please count all {many}.
Can you count the {many}?
Could you count the {many} in this {image}?
What is the number of {many}?
What is the number of {many} in this {image}?
Tell me how many {many} there are.
Tell me the number of {many}.
I want to know how many {many} are in the {image}.
How many {many} are shown?
How many {many} are visible here?
Are there many {many}? How many?
Number of {many}?
Do you know how many {many} there are?""",
        keep=3,
    ),
    "count_all": Pool(
        """How many objects are there?
How many objects are in the {image}?
How many things do you see?
How many things are in this {image}?
How many items are in the {image}?
Count the objects.
Count everything in the {image}.
Count all the things you see.
How many objects can you see?
How many things are there in all?
How many objects in total?
What is the total number of objects?
Tell me how many things are in the {image}.
Can you count the objects in this {image}?
How many different things can you count here?""",
        keep=2,
    ),
    "where": Pool(
        """Where is {the}?
Where in the {image} is {the}?
Where is {the} in this {image}?
Where can I find {the}?
Where do you see {the}?
What is the position of {the}?
What is the location of {the} in the {image}?
In which part of the {image} is {the}?
Where exactly is {the}?
Tell me where {the} is.
Can you tell me where {the} is?
Can you find {the}?
Find {the}.
Locate {the} in the {image}.
Which part of the {image} shows {the}?
Where was {the} drawn?
Where is {the} located?
Give me the position of {the}.
On which side is {the}?
I am looking for {the}. Where is it?
Where should I look for {the}?
At what place is {the}?
Where's {the}?""",
        keep=2,
    ),
    "colour": Pool(
        """What {color} {be} {the}?
Which {color} {be} {the}?
What {color} {be} {the} in the {image}?
What is the {color} of {the}?
Tell me the {color} of {the}.
Tell me what {color} {the} {be}.
What {color} do you see on {the}?
In what {color} {be} {the} drawn?
Can you tell me the {color} of {the}?
Name the {color} of {the}.
Which {color} has been used for {the}?
{the}: what {color}?
What {color} would you say {the} {be}?
I want to know the {color} of {the}.
Do you see what {color} {the} {be}?
What's the {color} of {the}?""",
        keep=2,
    ),
    "background": Pool(
        """What is the background?
What {color} is the background?
What is in the background?
What is the background of this {image}?
Describe the background.
Describe the background of the {image}.
Which {color} does the background have?
What kind of background is it?
What does the background look like?
What is behind the objects?
What can you see in the background?
Tell me about the background.
Tell me the {color} of the background.
What is the {color} of the background?
What background does this {image} have?
And the background?
What do you see behind everything?
Where does this scene take place?
On what background was this drawn?""",
        keep=3,
    ),
    "yesno": Pool(
        """Is there {a} in the {image}?
Is there {a}?
Is there {a} here?
Do you see {a}?
Do you see {a} in this {image}?
Can you see {a}?
Can you see {a} in the {image}?
Does the {image} show {a}?
Does this {image} contain {a}?
Does the {image} have {a} in it?
Are there any {many}?
Are there any {many} in this {image}?
Is {a} in the {image}?
Is {a} visible here?
Is {a} shown in the {image}?
Do you find {a} here?
Is any of these things {a}?
Have I drawn {a}?
Tell me if there is {a} in the {image}.
Yes or no: is there {a}?
I think there is {a}. Is that right?
Did you see {a}?
There is {a}, right?
Check if there is {a} in the {image}.
Any {many} in this {image}?""",
        keep=4,
    ),
    "is_this": Pool(
        """Is this {a}?
Is it {a}?
Is that {a}?
Is this a {image} of {a}?
Does this look like {a}?
Would you call this {a}?
This is {a}, right?
Am I looking at {a}?
Is the thing in the {image} {a}?""",
        keep=2,
    ),
    "is_colour": Pool(
        """Is {the} {tint}?
Is {the} in the {image} {tint}?
Is the {color} of {the} {tint}?
Is {tint} the {color} of {the}?
Do you think {the} is {tint}?
Does {the} have the {color} {tint}?
{the} is {tint}, right?
Yes or no: is {the} {tint}?"""
    ),
    "is_count": Pool(
        """Are there {number} {many}?
Are there {number} {many} in the {image}?
Do you see {number} {many}?
Can you count {number} {many}?
Does the {image} show {number} {many}?
Is it right that there are {number} {many}?
There are {number} {many}, right?"""
    ),
    "relation": Pool(
        """Is {the} {side} {the2}?
Is {the} {side} {the2} in the {image}?
In this {image}, is {the} {side} {the2}?
Can you see {the} {side} {the2}?
Do you see {the} {side} {the2}?
Would you say that {the} is {side} {the2}?
Is it true that {the} is {side} {the2}?
Yes or no: {the} is {side} {the2}?
Tell me if {the} is {side} {the2}.
{the} is {side} {the2}, right?
Was {the} drawn {side} {the2}?
Does the {image} show {the} {side} {the2}?
Have I drawn {the} {side} {the2}?
Does {the} stand {side} {the2}?""",
        keep=2,
    ),
    "relation_what": Pool(
        """What is {side} {the2}?
What is {side} {the2} in the {image}?
What do you see {side} {the2}?
What can you see {side} {the2}?
Which thing is {side} {the2}?
Which object is {side} {the2} in this {image}?
Tell me what is {side} {the2}.
Name the thing {side} {the2}.
What did I draw {side} {the2}?
What can be found {side} {the2}?
What object is there {side} {the2}?
Look {side} {the2}: what is there?
Is anything {side} {the2}? What?
What is shown {side} {the2}?""",
        keep=2,
    ),
    "relation_where": Pool(
        """Where is {the} relative to {the2}?
Where is {the} compared to {the2}?
On which side of {the2} is {the}?
Seen from {the2}, where is {the}?
Where is {the} from {the2}?
Where do you see {the} relative to {the2}?
What is the position of {the} relative to {the2}?
How is {the} placed relative to {the2}?
In which direction from {the2} is {the}?
Which side of {the2} is {the} on?
Tell me where {the} is relative to {the2}.
{the} and {the2}: where is the first relative to the second?
Where would you say {the} is, relative to {the2}?
Starting at {the2}, where do I find {the}?""",
        keep=2,
    ),
    "extreme": Pool(
        """What is {place}?
What is {place} of the {image}?
What do you see {place}?
What can you see {place} of the {image}?
What thing is {place}?
What object is {place}?
Which object is {place} of the {image}?
What is shown {place}?
Tell me what is {place}.
Name the thing {place}.
What did I draw {place}?
Look {place}: what is there?
What can be found {place}?
What does the {image} show {place}?
Describe the thing {place}.
Is anything {place}? What?""",
        keep=3,
    ),
    "read": Pool(
        """What does the text say?
What is written in the {image}?
What does it say?
Read the text.
Read the text in this {image}.
What text is in the {image}?
What is written here?
What text do you see?
Can you read the text?
Can you read what it says?
Could you read this {image} for me?
Please read it to me.
Tell me what the text says.
Tell me what is written here.
What does the sign say?
What do the letters say?
Spell the text in the {image}.
What can you read?
What can you read in this {image}?
What does the {image} say?
What have I written here?
Transcribe the text.
Do you know what is written here?
Write down the text that you see.
What is the text in the {image}?
Extract the text from this {image}.
Run OCR on this {image}.""",
        keep=4,
    ),
    "read_word": Pool(
        """What word is in the {image}?
What word do you see?
Which word is written here?
Read the word.
What is the word?
Which word can you read?
What word have I written?"""
    ),
    "read_number": Pool(
        """What number is in the {image}?
What number do you see?
Which number is written here?
Read the number.
What is the number?
Which number can you read?
What number have I written?
Which digits are shown?"""
    ),
    "read_any": Pool(
        """Is there any text in the {image}?
Is there text in this {image}?
Do you see any text?
Can you see any words here?
Does the {image} contain any text?
Is anything written in the {image}?
Is something written here?
Are there any letters or numbers?
Have I written anything in the {image}?"""
    ),
    "category": Pool(
        """Is there {category} in the {image}?
Is there {category}?
Do you see {category}?
Can you see {category} in this {image}?
Does the {image} show {category}?
Is {category} in this {image}?
Is any of these things {category}?
Does this {image} contain {category}?
Tell me if there is {category} here.
Yes or no: is there {category}?
Is {category} visible here?""",
        keep=2,
    ),
    "which": Pool(
        """Which {categories} are in the {image}?
Which {categories} do you see?
What {categories} are there?
What {categories} can you see in this {image}?
Name the {categories}.
Name the {categories} in the {image}.
List all {categories}.
Which {categories} does the {image} show?
Tell me which {categories} you see.
Can you name the {categories} here?""",
        keep=2,
    ),
    "story": Pool(
        """Tell me a story about this image.
Tell me a story about the {image}.
Tell me a short story about this {image}.
Write a short story about this {image}.
Write a story for this {image}.
Make up a story about this {image}.
Invent a story about what you see.
Can you tell me a story about the {image}?
Could you write a little story about this {image}?
I would like a story about this {image}.
What story does this {image} tell?
Think of a story for this {image}.
Tell a story with the things in the {image}.
A story about this {image}, please.
Make a bedtime story from this {image}.
Create a story from this {image}.
Use the {image} to tell me a story.""",
        keep=2,
    ),
    "what_story": Pool(
        """What is in this image? Tell me a story
What is in this image? Tell me a story.
What is in this {image}? Tell me a story.
What do you see? Tell me a story about it.
What is in the {image}? Then tell me a story.
Tell me what is in this {image}, then tell me a story.
Name what you see and tell me a story.
What does the {image} show? Make up a story.
Describe the {image} and write a short story.""",
        keep=3,
    ),
    "cannot": Pool(
        """Who made this {image}?
Who is the person in this {image}?
Who is this person?
Who painted this?
Who took this {image}?
Who drew this?
Who is this?
Who is the artist?
What is the name of the person in the {image}?
When was this {image} taken?
When was it made?
In which year was this {image} taken?
How old is this {image}?
Where was this {image} taken?
In which country was this {image} taken?
In what city is this?
Which camera took this {image}?
How much does this cost?
How much is it worth?
What is the price of this?
Where can I buy this?
What brand is this?
Which company made it?
What does it feel?
Are they happy?
What mood does this {image} have?
What is the meaning of this {image}?
Why is this {image} important?
Why did somebody make this {image}?
What will happen next?
What happened before this {image}?
What is outside the {image}?
Is this {image} real or fake?
What does it smell like?
How heavy is it?
How big is it in meters?
How old is it?
What is its name?
What is the weather like there?
What time is it in the {image}?
Is this person famous?
What breed is it?
Which species is it?
What is he thinking?
Is this dangerous?
Can I eat this?
Is this {image} art?
Do you like this {image}?
Is this a good {image}?
What is the license of this {image}?""",
    ),
    "single": Pool(
        """What is this?
What is that?
What's this?
What is it?
What object is this?
What thing is this?
Name this.
Name the object.
Identify this object.
What do you think this is?
Do you know what this is?
Can you tell me what this is?
Can you guess what this is?
Tell me what this is.
What have I drawn?
What would you call this?
What kind of thing is this?
What is the thing in the {image}?
What is the object in this {image}?
Do you recognize this?
What does this look like?
What could this be?""",
        keep=3,
    ),
}
SIDES: dict[str, tuple[str, ...]] = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "above", "over"),
    "below": ("below", "below", "under"),
}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
CATEGORY_PHRASES = {"animal": "an animal", "plant": "a plant", "food": "food", "vehicle": "a vehicle", "shape": "a shape"}
CATEGORY_MANY = {"animal": "animals", "plant": "plants", "food": "foods", "vehicle": "vehicles", "shape": "shapes"}
_PICTURE_KINDS = tuple(kind for kind in QUESTIONS if kind not in ("count_all", "is_this", "is_colour", "is_count", "read_any"))


def pose(rng: random.Random, kind: str, split: str, **slots: str) -> str:
    """A question of this kind, with the slots filled and carelessly typed."""
    template = QUESTIONS[kind].pick(rng, split)
    text = template.format(image=rng.choice(_IMAGES), color=rng.choice(_COLOURS), **slots)
    return careless(rng, text[0].upper() + text[1:])


def asked_place(rng: random.Random, place: str) -> str:
    """The region as asked, in either spelling."""
    return place.replace("center", "centre") if "center" in place and rng.random() < 0.3 else place


def any_question(rng: random.Random, split: str, kind: str = "") -> str:
    """A question about a picture whatever is in it: for pictures of another world, and when there is none."""
    one, other = rng.sample(KINDS, 2)
    category = rng.choice(CATEGORIES)
    return pose(
        rng,
        kind or rng.choice(_PICTURE_KINDS),
        split,
        a=f"{one.article} {one.name}",
        the=f"the {one.name}",
        many=one.many,
        the2=f"the {other.name}",
        be="is",
        tint=rng.choice(tuple(COLOURS)),
        side=rng.choice(SIDES[rng.choice(tuple(SIDES))]),
        place=asked_place(rng, rng.choice(tuple(REGIONS.values()))),
        number=rng.choice(("two", "three", "four")),
        category=CATEGORY_PHRASES[category],
        categories=CATEGORY_MANY[category],
    )
