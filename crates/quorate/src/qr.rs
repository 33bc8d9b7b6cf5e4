//! A ticket as a QR code: as text for a terminal, as a PNG file.
//!
//! The ticket is written in capitals, which QR codes hold in their dense alphanumeric mode.

use std::path::Path;

use qrcode::{Color, EcLevel, QrCode, render::unicode::Dense1x2};
use quorate_identity::Code;
use quorate_node::files::write_atomic;
use quorate_session::Ticket;

use crate::failure::Failure;

/// White modules around the code, as ISO/IEC 18004 wants them.
const QUIET_MODULES: usize = 4;
/// Pixels of one module in a file.
const MODULE_PIXELS: usize = 8;

/// The QR code of a ticket.
pub struct TicketCode(QrCode);

impl TicketCode {
    pub fn new(ticket: &Ticket) -> Result<Self, Failure> {
        QrCode::with_error_correction_level(ticket.qr_text(), EcLevel::L)
            .map(Self)
            .map_err(|e| Failure::new(Code::Internal, format!("the ticket fits no QR code: {e}")))
    }

    /// Two modules in a character, light ones drawn: on a dark terminal it looks as on paper, and
    /// readers take the reverse too.
    pub fn lines(&self) -> Vec<String> {
        let drawn = self
            .0
            .render::<Dense1x2>()
            .dark_color(Dense1x2::Light)
            .light_color(Dense1x2::Dark)
            .quiet_zone(true)
            .build();
        drawn.lines().map(str::to_owned).collect()
    }

    /// Writes it to a PNG file, replacing what is there.
    pub fn write_png(&self, path: &Path) -> Result<(), Failure> {
        Ok(write_atomic(path, &self.png()?)?)
    }

    fn png(&self) -> Result<Vec<u8>, Failure> {
        let modules = self.0.width();
        let side = (modules + 2 * QUIET_MODULES) * MODULE_PIXELS;
        let size = u32::try_from(side).unwrap_or(u32::MAX);
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, size, size);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::Eight);
        let mut pixels = Vec::with_capacity(side * side);
        for y in 0..side {
            for x in 0..side {
                pixels.push(if self.is_dark(x, y) { 0 } else { 0xff });
            }
        }
        let wrong = |e: png::EncodingError| {
            Failure::new(
                Code::Internal,
                format!("the QR code could not be drawn: {e}"),
            )
        };
        let mut writer = encoder.write_header().map_err(wrong)?;
        writer.write_image_data(&pixels).map_err(wrong)?;
        writer.finish().map_err(wrong)?;
        Ok(bytes)
    }

    fn is_dark(&self, x: usize, y: usize) -> bool {
        let module = |pixel: usize| (pixel / MODULE_PIXELS).checked_sub(QUIET_MODULES);
        let inside = |at: &usize| *at < self.0.width();
        match (module(x).filter(inside), module(y).filter(inside)) {
            (Some(x), Some(y)) => self.0[(x, y)] == Color::Dark,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use quorate_identity::{Digest, SigningKey};
    use quorate_session::PeerId;

    fn code() -> TicketCode {
        let peer = PeerId::of(&SigningKey::from_seed(&[1; 32]).public());
        TicketCode::new(&Ticket::new(peer, &Digest([2; 32]), &[]).unwrap()).unwrap()
    }

    #[test]
    fn the_file_shows_every_module_and_a_quiet_zone() {
        let code = code();
        let png = code.png().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(png))
            .read_info()
            .unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        let side = (code.0.width() + 2 * QUIET_MODULES) * MODULE_PIXELS;
        assert_eq!(pixels.len(), side * side);
        for y in 0..code.0.width() {
            for x in 0..code.0.width() {
                let at = |n: usize| (n + QUIET_MODULES) * MODULE_PIXELS + MODULE_PIXELS / 2;
                let dark = pixels[at(y) * side + at(x)] == 0;
                assert_eq!(dark, code.0[(x, y)] == Color::Dark, "{x} {y}");
            }
        }
        assert!(
            pixels[..side * QUIET_MODULES * MODULE_PIXELS]
                .iter()
                .all(|p| *p == 0xff)
        );
    }

    #[test]
    fn a_ticket_fits_a_small_code_on_a_terminal() {
        let lines = code().lines();
        assert!(
            lines.len() <= 30 && lines[0].chars().count() <= 60,
            "{}",
            lines.join("\n")
        );
    }
}
