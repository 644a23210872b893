"""Facts for small talk: capitals, colours, sounds, opposites, jokes, and the two prompts without a picture of the tutorial."""

from __future__ import annotations

CAPITALS = {
    country: city
    for entry in """France: Paris; Germany: Berlin; Italy: Rome; Spain: Madrid; Portugal: Lisbon; England: London; Ireland: Dublin
Austria: Vienna; Switzerland: Bern; Belgium: Brussels; Greece: Athens; Poland: Warsaw; Sweden: Stockholm; Norway: Oslo
Denmark: Copenhagen; Finland: Helsinki; Iceland: Reykjavik; Hungary: Budapest; Russia: Moscow; Turkey: Ankara; Egypt: Cairo
Kenya: Nairobi; Morocco: Rabat; India: New Delhi; China: Beijing; Japan: Tokyo; Thailand: Bangkok; Vietnam: Hanoi; Iran: Tehran
Indonesia: Jakarta; Australia: Canberra; New Zealand: Wellington; Canada: Ottawa; Mexico: Mexico City; Cuba: Havana
Brazil: Brasilia; Argentina: Buenos Aires; Chile: Santiago; Peru: Lima; Colombia: Bogota; the Netherlands: Amsterdam
the United States: Washington; the Czech Republic: Prague; Romania: Bucharest; South Korea: Seoul""".replace("\n", "; ").split(
        "; "
    )
    for country, city in [entry.split(": ")]
}

FAMOUS = {
    "Italy": "Rome is famous for the Colosseum, the Vatican and good food.",
    "France": "Paris is famous for the Eiffel Tower, art and good food.",
    "Germany": "Berlin is famous for the Brandenburg Gate and its museums.",
    "England": "London is famous for Big Ben and red buses.",
    "Spain": "Madrid is famous for the Prado museum and its parks.",
    "Greece": "Athens is famous for the Acropolis.",
    "Japan": "Tokyo is famous for its towers, temples and sushi.",
    "Russia": "Moscow is famous for the Kremlin and Red Square.",
    "Egypt": "Cairo is famous for the pyramids nearby.",
    "Austria": "Vienna is famous for music, palaces and cake.",
    "the Czech Republic": "Prague is famous for its castle and old bridge.",
    "the Netherlands": "Amsterdam is famous for canals and bicycles.",
}

COLOUR_OF = {
    "a banana": "yellow",
    "grass": "green",
    "the sky": "blue",
    "snow": "white",
    "a lemon": "yellow",
    "a tomato": "red",
    "a frog": "green",
    "a carrot": "orange",
    "a pig": "pink",
    "coal": "black",
    "a strawberry": "red",
    "the sun": "yellow",
    "milk": "white",
    "chocolate": "brown",
    "an elephant": "gray",
    "blood": "red",
    "a leaf": "green",
    "the sea": "blue",
}

SOUNDS = {
    "a dog": "woof",
    "a cat": "meow",
    "a cow": "moo",
    "a pig": "oink",
    "a frog": "ribbit",
    "a bee": "buzz",
    "an owl": "hoo",
    "a snake": "hiss",
    "a lion": "roar",
    "a sheep": "baa",
    "a duck": "quack",
    "a bird": "tweet",
}

OPPOSITES = {
    first: second
    for pair in """big/small; hot/cold; day/night; up/down; left/right; black/white; open/closed; old/new; good/bad; happy/sad
fast/slow; high/low; long/short; full/empty; light/dark; wet/dry; hard/soft; yes/no; early/late; rich/poor""".replace(
        "\n", "; "
    ).split("; ")
    for first, second in [pair.split("/")]
}
OPPOSITES.update({second: first for first, second in list(OPPOSITES.items())})

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

LEGS = {"a dog": 4, "a cat": 4, "a bird": 2, "a bee": 6, "a cow": 4, "a snake": 0, "an octopus": 8, "a fish": 0, "a spider": 8}

FIXED = {
    "How many days are in a week?": "A week has seven days.",
    "How many hours are in a day?": "A day has 24 hours.",
    "How many months are in a year?": "A year has twelve months.",
    "How many minutes are in an hour?": "An hour has 60 minutes.",
    "Which seasons are there?": "Spring, summer, autumn and winter.",
    "Count to five.": "One, two, three, four, five.",
    "Count to ten.": "One, two, three, four, five, six, seven, eight, nine, ten.",
    "Can you count to three?": "One, two, three.",
    "Which days are the weekend?": "Saturday and Sunday.",
    "How many legs does a spider have?": "A spider has eight legs.",
    "What are the colors of the rainbow?": "Red, orange, yellow, green, blue and purple.",
    "Name the days of the week.": "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.",
}

JOKES = (
    "Why did the robot look at the picture? It wanted to see the bigger image!",
    "Why was the math book sad? It had too many problems.",
    "What do you call a bear in the rain? A drizzly bear!",
    "Why did the banana go to the doctor? It was not peeling well.",
    "What do you call a fish without eyes? A fsh!",
    "Why do bees have sticky hair? They use honeycombs.",
    "What is a snowman's favorite food? Ice burgers!",
    "Why did the bicycle fall over? It was two tired.",
    "What has hands but cannot clap? A clock!",
    "Why did the picture go to jail? It was framed.",
    "What do you call a sleeping cow? A bulldozer!",
    "Why are ghosts bad liars? You can see right through them.",
)

MAYONNAISE = (
    "Whisk an egg yolk with mustard, lemon juice and salt. Slowly add oil, drop by drop, until it is thick.",
    "Mix an egg yolk, mustard, lemon juice and a little salt. Then whisk in oil very slowly until it is thick.",
    "Beat an egg yolk with salt, mustard and lemon juice. Add oil slowly while you whisk until the mayonnaise is thick.",
)
