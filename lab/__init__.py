import lab.machine                        # before torch, whatever part of lab is asked for
