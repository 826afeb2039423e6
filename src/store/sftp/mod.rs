//! SFTP: filled in next.
