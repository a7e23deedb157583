//! What a hub lets go of before it serves anybody.

use crate::orders::Orders;
use crate::trouble::Trouble;

pub fn confine(_orders: &Orders) -> Result<(), Trouble> {
    Ok(())
}

/// Whether new orders can be served within what was let go of; or why not.
pub fn allows(_before: &Orders, _orders: &Orders) -> Result<(), String> {
    Ok(())
}
