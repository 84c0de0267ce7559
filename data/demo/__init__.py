"""The demo's world: small facts about made-up islands, told in two languages. Text only; no model is made here."""
