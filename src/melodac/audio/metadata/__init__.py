"""What is known of a track besides its sound: tables, side-cars, embedded tags, merged and used."""
