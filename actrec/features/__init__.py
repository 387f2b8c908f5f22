"""From the data contract to network inputs. Training and the live nodes both call these functions."""
