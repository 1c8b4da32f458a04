"""What the toy shop sells, and the judged queries that nobody types in its log."""

from __future__ import annotations

# Category path, noun that shoppers type, and eight products as (title, brand, price, colour,
# material). None stands for what real feeds lack.  The last product of a shelf is launched on day
# 5.
Product = tuple[str, str | None, float | None, str | None, str | None]
SHELVES: list[tuple[tuple[str, ...], str, list[Product]]] = [
    (
        ("Home & Kitchen", "Cookware", "Frying Pans"),
        "frying pan",
        [
            ("Nonstick Frying Pan 10 inch Black", "Hearthway", 24.99, "black", "aluminium"),
            ("Cast Iron Skillet 12 inch Preseasoned", "Ironmill", 39.9, "black", "cast iron"),
            ("Stainless Steel Frying Pan with Lid", "Hearthway", 44.5, "silver", "stainless steel"),
            ("Ceramic Frying Pan 8 inch Green", "Verdello", 21.0, "green", "ceramic"),
            ("Copper Frying Pan 11 inch", "Ironmill", None, "copper", "copper"),
            ("Carbon Steel Wok Pan 13 inch", "Ironmill", 34.0, "black", "carbon steel"),
            ("Egg Pan Nonstick 4 Cups", "Verdello", 17.49, "red", "aluminium"),
            ("Induction Frying Pan Set of 3", "Hearthway", 69.0, "black", "aluminium"),
        ],
    ),
    (
        ("Home & Kitchen", "Bath", "Towels"),
        "bath towel",
        [
            ("Cotton Bath Towel Set of 4 White", "Softdale", 32.0, "white", "cotton"),
            ("Bamboo Bath Towel Grey", "Verdello", 18.95, "grey", "bamboo"),
            ("Quick Dry Microfiber Towel Blue", "Trailnest", 12.5, "blue", "microfiber"),
            ("Turkish Beach Towel Striped", "Softdale", None, "blue", "cotton"),
            ("Hand Towels Set of 6 Beige", "Softdale", 22.0, "beige", "cotton"),
            ("Kitchen Towels Waffle Weave 8 Pack", "Hearthway", 15.99, "grey", "cotton"),
            ("Hooded Baby Towel Yellow Duck", None, 19.0, "yellow", "cotton"),
            ("Organic Bath Sheet Extra Large Green", "Verdello", 41.0, "green", "cotton"),
        ],
    ),
    (
        ("Sports & Outdoors", "Camping", "Tents"),
        "tent",
        [
            ("Two Person Backpacking Tent Green", "Trailnest", 129.0, "green", "nylon"),
            ("Family Camping Tent 6 Person", "Northfold", 219.0, "orange", "polyester"),
            ("Pop Up Beach Tent Blue", "Trailnest", 49.99, "blue", "polyester"),
            ("Four Season Mountain Tent Red", "Northfold", 389.0, "red", "nylon"),
            ("Kids Play Tent Castle", None, 27.5, "pink", "cotton"),
            ("Canvas Bell Tent 5 Metre", "Northfold", None, "beige", "canvas"),
            ("Rooftop Car Tent 3 Person", "Northfold", 949.0, "black", "canvas"),
            ("Ultralight One Person Tent Grey", "Trailnest", 179.0, "grey", "nylon"),
        ],
    ),
    (
        ("Sports & Outdoors", "Running", "Shoes"),
        "running shoes",
        [
            ("Mens Running Shoes Cushioned Black", "Stridewell", 89.0, "black", "mesh"),
            ("Womens Running Shoes Lightweight Pink", "Stridewell", 84.0, "pink", "mesh"),
            ("Trail Running Shoes Waterproof Green", "Trailnest", 119.0, "green", "synthetic"),
            ("Marathon Racing Shoes Carbon Plate", "Fleetora", 199.0, "white", "synthetic"),
            ("Kids Running Shoes Blue", "Stridewell", 39.5, "blue", "mesh"),
            ("Barefoot Running Shoes Wide Toe", "Fleetora", None, "grey", "leather"),
            ("Stability Running Shoes Mens Grey", "Fleetora", 109.0, "grey", "mesh"),
            ("Womens Trail Shoes Purple", "Fleetora", 99.0, "purple", "synthetic"),
        ],
    ),
    (
        ("Electronics", "Audio", "Headphones"),
        "headphones",
        [
            ("Wireless Noise Cancelling Headphones Black", "Auralite", 159.0, "black", "plastic"),
            ("Bluetooth Earbuds with Charging Case White", "Auralite", 59.0, "white", "plastic"),
            ("Kids Headphones Volume Limited Blue", "Pipkin", 22.0, "blue", "plastic"),
            ("Studio Monitor Headphones Wired", "Tonewerk", 129.0, "black", "metal"),
            ("Gaming Headset with Microphone Red", "Tonewerk", 74.5, "red", "plastic"),
            ("Sports Earbuds Sweatproof Green", "Auralite", 45.0, "green", "silicone"),
            ("Sleep Headphones Headband Grey", None, None, "grey", "cotton"),
            ("Open Back Headphones Walnut", "Tonewerk", 249.0, "brown", "wood"),
        ],
    ),
    (
        ("Electronics", "Computers", "Keyboards"),
        "keyboard",
        [
            ("Mechanical Keyboard Brown Switches", "Tonewerk", 99.0, "black", "aluminium"),
            ("Wireless Keyboard Compact White", "Keymoor", 39.0, "white", "plastic"),
            ("Ergonomic Split Keyboard Black", "Keymoor", 119.0, "black", "plastic"),
            ("Gaming Keyboard RGB Backlit", "Tonewerk", 79.99, "black", "plastic"),
            ("Foldable Travel Keyboard Bluetooth Grey", "Keymoor", None, "grey", "plastic"),
            ("Kids Keyboard Large Print Yellow", "Pipkin", 25.0, "yellow", "plastic"),
            ("Numeric Keypad USB", "Keymoor", 17.0, "black", "plastic"),
            ("Low Profile Mechanical Keyboard Silver", "Keymoor", 89.0, "silver", "aluminium"),
        ],
    ),
    (
        ("Toys & Games", "Puzzles"),
        "jigsaw puzzle",
        [
            ("Jigsaw Puzzle 1000 Pieces Mountain Lake", "Pipkin", 16.0, "multicolour", "cardboard"),
            ("Wooden Puzzle for Toddlers Farm Animals", "Oakling", 14.5, "multicolour", "wood"),
            ("3D Puzzle Eiffel Tower", "Pipkin", 24.0, "silver", "metal"),
            ("Jigsaw Puzzle 500 Pieces Cats", "Pipkin", 12.0, "multicolour", "cardboard"),
            ("Floor Puzzle Dinosaurs 48 Pieces", "Oakling", None, "green", "cardboard"),
            ("Magnetic Puzzle Cube 3x3", None, 9.99, "multicolour", "plastic"),
            ("World Map Puzzle for Kids", "Oakling", 18.0, "blue", "wood"),
            ("Puzzle Mat Roll Up Black", "Pipkin", 21.0, "black", "felt"),
        ],
    ),
    (
        ("Garden", "Watering", "Hoses"),
        "garden hose",
        [
            ("Expandable Garden Hose 50 ft Green", "Fernbrook", 29.0, "green", "latex"),
            ("Rubber Garden Hose 100 ft Black", "Fernbrook", 54.0, "black", "rubber"),
            ("Soaker Hose 25 ft", "Fernbrook", 15.0, "black", "rubber"),
            ("Coiled Patio Hose Blue", "Dewline", 24.0, "blue", "polyurethane"),
            ("Hose Reel Wall Mounted", "Dewline", None, "grey", "steel"),
            ("Stainless Steel Garden Hose 50 ft", "Dewline", 47.0, "silver", "stainless steel"),
            ("Hose Nozzle Spray Gun 8 Patterns", "Dewline", 13.49, "green", "metal"),
            ("Drinking Water Safe Hose White", "Fernbrook", 33.0, "white", "pvc"),
        ],
    ),
]
JUDGED = {  # query -> shelf; never typed in the log
    "valid": {
        "skillet cast iron": 0,
        "grey towel bamboo": 1,
        "mechanical keys brown": 5,
        "hose that expands green": 7,
    },
    "test": {
        "ceramic egg pan": 0,
        "white cotton towels for bath": 1,
        "family tent six people": 2,
        "womens pink shoes running": 3,
        "noise cancelling wireless black": 4,
        "split ergonomic keyboard": 5,
        "thousand pieces mountain jigsaw": 6,
        "soaker hose 25": 7,
    },
}
