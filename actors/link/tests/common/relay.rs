//! A path between the sites that takes time and loses packets, or all of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A UDP relay for one client at a time. Losses are independent, and the same in every run for a given
/// order of packets.
pub struct Relay {
    pub address: SocketAddr,
    loss_permille: Arc<AtomicU64>,
    pub lost: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

/// One way.
const DELAY: Duration = Duration::from_millis(5);

impl Relay {
    pub async fn start(target: SocketAddr) -> Self {
        let client_side = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let server_side = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = client_side.local_addr().unwrap();
        let loss_permille = Arc::new(AtomicU64::new(0));
        let lost = Arc::new(AtomicU64::new(0));
        let (loss, count) = (loss_permille.clone(), lost.clone());
        let task = tokio::spawn(async move {
            let mut client = None;
            let mut state = 0x2545_f491_4f6c_dd1du64;
            let mut is_lost = move || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let is_lost = state % 1000 < loss.load(Ordering::Relaxed);
                count.fetch_add(u64::from(is_lost), Ordering::Relaxed);
                is_lost
            };
            let (to_server, to_client) = (later(server_side.clone()), later(client_side.clone()));
            let (mut there, mut back) = (vec![0; 65_536], vec![0; 65_536]);
            loop {
                tokio::select! {
                    Ok((bytes, from)) = client_side.recv_from(&mut there) => {
                        client = Some(from);
                        if !is_lost() {
                            let _ = to_server.send((Instant::now() + DELAY, target, there[..bytes].to_vec()));
                        }
                    }
                    Ok((bytes, _)) = server_side.recv_from(&mut back) => {
                        if let Some(client) = client.filter(|_| !is_lost()) {
                            let _ = to_client.send((Instant::now() + DELAY, client, back[..bytes].to_vec()));
                        }
                    }
                    else => {}
                }
            }
        });
        Self { address, loss_permille, lost, task }
    }

    /// Loses so many packets of a thousand from now on.
    pub fn set_loss(&self, permille: u64) {
        self.loss_permille.store(permille, Ordering::Relaxed);
    }
}

/// Sends packets when their time has come, in order.
fn later(socket: Arc<UdpSocket>) -> mpsc::UnboundedSender<(Instant, SocketAddr, Vec<u8>)> {
    let (queue, mut packets) = mpsc::unbounded_channel::<(Instant, SocketAddr, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((due, address, packet)) = packets.recv().await {
            tokio::time::sleep_until(due).await;
            let _ = socket.send_to(&packet, address).await;
        }
    });
    queue
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}
